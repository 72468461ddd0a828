"""Files that hold tensors, read and written with NumPy: `safetensors` and `gguf`.

Whatever a header says is checked against the file before anything is allocated or looked at.
"""
