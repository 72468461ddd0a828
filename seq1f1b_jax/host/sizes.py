"""Sizes as a person reads them."""


def size_text(num_bytes: float) -> str:
    """Bytes as kB, MB or GB, decimal.

    Example:
      >>> from seq1f1b_jax.host.sizes import size_text
      >>> size_text(1_500_000)
      '1.5 MB'
    """
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
