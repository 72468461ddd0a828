"""One layer: what it keeps, its backward whole and in halves, and which kind it is."""
