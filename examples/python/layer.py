"""A small network with InPlaceABN, trained for ten steps on random images.

python examples/python/layer.py
"""

import torch
import torch.nn.functional as F
from torch import nn

from iabn import InPlaceABN


def block(channels_in, channels_out):
    """Convolution, BatchNorm and leaky ReLU; the last two are one layer that overwrites the convolution's output."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        InPlaceABN(channels_out, activation="leaky_relu", activation_param=0.01),
    )


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
net = nn.Sequential(
    block(3, 32),
    block(32, 32),
    nn.MaxPool2d(2),
    block(32, 64),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, 10),
).to(device)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
images, labels = torch.randn(32, 3, 32, 32, device=device), torch.randint(10, (32,), device=device)

losses = []
for step in range(10):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(f"step {step}: loss {losses[-1]:.3f}")
assert losses[-1] < losses[0], "the loss should go down"
