# An image for one host of a run, as launch/jobset.yaml starts it:
#
#     docker build --tag seq1f1b-jax .
#     docker build --tag seq1f1b-jax:cpu --build-arg EXTRAS= .
#
# CUDA and cuDNN come with JAX's wheels, so the host needs NVIDIA's driver and container toolkit.
FROM python:3.12-slim-bookworm
ARG EXTRAS=[cuda12]
ENV PYTHONUNBUFFERED=1
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable ".${EXTRAS}"
CMD ["python", "train.py", "--help"]
