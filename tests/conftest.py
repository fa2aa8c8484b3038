"""One thread for each process: the networks are tiny, and threads that wait for one another on shared cores cost minutes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the processes that tests start inherit it

import torch

if not torch.cuda.is_available():  # before Triton is imported: without a GPU its kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")
