"""Loads the given operator library into PyTorch and compares one forward pass with PyTorch's own."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

torch.ops.load_library(str(Path(sys.argv[1]).resolve()))
torch.manual_seed(0)
x = torch.randn(4, 8, 5, 5)
expected = F.leaky_relu(F.batch_norm(x, None, None, training=True), 0.01)
leaky_relu, signed = 1, 0  # iabn::Activation, iabn::kernels::GammaMode
mean, _ = torch.ops.iabn.abn_forward_(x, None, None, None, None, None, 0.1, 1e-5, leaky_relu, 0.01, signed)
torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
assert mean.shape == (8,)
print(f"{sys.argv[1]}: abn_forward_ agrees with batch_norm + leaky_relu on PyTorch {torch.__version__}")
