"""Converts a torchvision ResNet to InPlace-ABN, trains it for ten steps, and shows the memory of a step on both sides.

pip install -r examples/python/requirements.txt
python examples/python/convert_resnet.py --plot memory.svg
"""

import argparse
import copy
import sys
import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import iabn

try:
    import torchvision
except ImportError:
    sys.exit("this example needs torchvision: pip install -r examples/python/requirements.txt")


def storages(tree):
    """The memory behind the tensors of an operation's arguments or results, each once."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors made since it was entered and still alive, noted after every operation in `curve`."""

    def __init__(self):
        super().__init__()
        self.live, self.curve = 0, []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        old = storages((arguments, options))
        results = operation(*arguments, **(options or {}))
        for key, storage in storages(results).items():
            if key not in old:
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.curve.append(self.live)
        return results

    def _freed(self, size):
        self.live -= size


def memory_of_a_step(model, images, labels):
    """[(share of the step, MiB)], beside the gradients of the parameters, which are there before."""
    F.cross_entropy(model(images), labels).backward()
    with LiveMemory() as memory:
        F.cross_entropy(model(images), labels).backward()
    last = len(memory.curve) - 1
    return [(i / last, size / 2**20) for i, size in enumerate(memory.curve)]


def plot(curves, path):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install -r examples/python/requirements.txt")
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), label=f"{name}: peak {max(size for _, size in curve):.0f} MiB")
    axes.set(xlabel="operations of a step, forward then backward", ylabel="memory, MiB", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--plot", metavar="FILE", help="write the curves, as .svg or .png; needs matplotlib")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    labels = torch.randint(10, (options.batch,), device=device)
    standard = torchvision.models.get_model(options.arch, num_classes=10).to(device)

    model = copy.deepcopy(standard)
    print(iabn.convert(model, images, relu="leaky_relu"))
    print(iabn.memory_report(model, images))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")

    curves = {
        name: memory_of_a_step(net, images, labels) for name, net in (("standard", standard), ("in-place", model))
    }
    peaks = {name: max(size for _, size in curve) for name, curve in curves.items()}
    print(f"peak of a step: standard {peaks['standard']:.1f} MiB, in-place {peaks['in-place']:.1f} MiB")
    if options.plot:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
