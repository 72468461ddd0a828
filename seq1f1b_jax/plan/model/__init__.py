"""A model in plain numbers: its sizes and weights, what a layer keeps, the state of a device."""
