"""How long a plan takes, and what its actions cost."""
