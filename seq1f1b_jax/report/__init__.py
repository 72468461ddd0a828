"""A run's page: what its folder tells, drawn by plotly in one HTML file; JAX is not needed."""

from seq1f1b_jax.report.page import write_report

__all__ = ["write_report"]
