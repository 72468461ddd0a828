"""Files of tensors, read and written with NumPy: `safetensors` and `gguf`.

Everything in a header is checked against the file before anything is allocated or read.
"""
