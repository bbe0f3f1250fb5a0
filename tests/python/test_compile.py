"""The layer under torch.compile, torch.export and ONNX export: where obvious designs are silently wrong."""

import copy
import re

import pytest
import torch
from conftest import relative_error
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

import iabn

SHAPE = (4, 3, 8, 8)


def network(kind=iabn.InPlaceABN, layers=1, dtype=torch.float64):
    """Convolutions and layers in turn, a convolution last."""
    torch.manual_seed(5)
    modules = [nn.Conv2d(3, 8, 3, bias=False)]  # the bias before a normalisation has gradient 0
    for _ in range(layers):
        modules += [kind(8, activation_param=0.1), nn.Conv2d(8, 8, 1, bias=False)]
    model = nn.Sequential(*modules).to(dtype)
    for module in model:
        if isinstance(module, iabn.ABN):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def step(model, function=None, shape=SHAPE, device="cpu"):
    """Output, all gradients, all buffers after one forward and backward pass of `function`, or of the model."""
    torch.manual_seed(6)
    x = torch.randn(shape, dtype=next(model.parameters()).dtype, device=device, requires_grad=True)
    y = (function or model)(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


def assert_same(got, want, tolerance=1e-12):
    for i, pair in enumerate(zip(got, want, strict=True)):
        assert relative_error(*pair) < tolerance, i


@pytest.fixture
def want():
    return step(network(iabn.ABN))


def test_eager(want):
    assert_same(step(network()), want)


def test_whole_model_without_graph_breaks(want):
    model = network()
    assert_same(step(model, torch.compile(model, fullgraph=True, backend="aot_eager")), want)


def test_the_layer_alone_is_compiled(want):
    """x is an input of the graph and the eager convolution before it needs its own gradients."""
    model = network()
    layer = torch.compile(model[1], fullgraph=True, backend="aot_eager")
    assert_same(step(model, lambda x: model[2](layer(model[0](x)))), want)


def test_the_input_keeps_its_value_for_others_when_compiled():
    def function(model, x):
        y = model[0](x)
        return model[2](model[1](y)) + y.sigmoid()

    expected, model = network(iabn.ABN), network()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    want = step(expected, lambda x: function(expected, x))
    assert_same(step(model, lambda x: compiled(model, x)), want)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_without_gradients(mode, training):
    expected, model = network(iabn.ABN).train(training), network().train(training)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(SHAPE, dtype=torch.float64)
    with mode():
        assert relative_error(compiled(x), expected(x)) < 1e-12
    assert_same(model.buffers(), expected.buffers())


def test_legacy_gamma_and_evaluation():
    layer = iabn.InPlaceABN(3, gamma="legacy", dtype=torch.float64)
    nn.init.uniform_(layer.weight, -1, 1)
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    for training in (True, False):
        layer.train(training)
        compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
        assert relative_error(compiled(x), layer(x.clone())) < 1e-12


def test_dynamic_batch_compiles_once():
    model = network()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.compiler.set_stance("default"):
        step(model, compiled)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (2, 7):
            model.zero_grad()
            expected = copy.deepcopy(model)
            assert_same(step(model, compiled, (batch, *SHAPE[1:])), step(expected, None, (batch, *SHAPE[1:])))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_updated_once_under_a_memory_budget(momentum):
    expected, model = network(iabn.ABN, layers=3), network(layers=3)
    for module in (*expected, *model):
        if isinstance(module, iabn.ABN):
            module.momentum = momentum
    with torch._functorch.config.patch(activation_memory_budget=0.3):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager_decomp_partition")
        got = step(model, compiled)
    assert_same(got, step(expected))
    assert all(b == 1 for name, b in model.named_buffers() if "num_batches" in name)


def test_autocast():
    model = network(dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        got = step(model, compiled)
    expected = network(iabn.ABN, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        want = step(expected)
    assert got[0].dtype == torch.bfloat16
    assert_same(got, want, 0.05)


def kept_bytes(model, function):
    """Bytes of activations that the graph keeps for backward, parameters aside."""
    kept = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(SHAPE, dtype=torch.float32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x)
    return sum(kept.values()) - x.untyped_storage().nbytes()


def test_inductor_overwrites_in_place_and_keeps_z_alone():
    layers = 3
    model = network(layers=layers, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True)
    activation = 4 * 8 * 6 * 6 * 4
    _, codes = run_and_get_code(compiled, torch.randn(SHAPE))
    convolved = set(re.findall(r"(buf\d+) = extern_kernels.convolution", codes[0]))
    overwritten = re.findall(r"abn_forward_.default\((buf\d+), primals", codes[0])
    assert len(overwritten) == layers and set(overwritten) <= convolved
    assert not re.search(r"fused_\w*clone", codes[0])
    slack = activation // 2  # statistics, a weight in another layout
    assert kept_bytes(model, compiled) <= layers * activation + slack


def test_graphs_on_disk_of_other_revisions_are_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", False)
    hits = []
    for revision in (1, 1, 2):
        monkeypatch.setattr(iabn._ops, "REVISION", revision)
        torch._dynamo.reset()
        counters.clear()
        torch.compile(network(), fullgraph=True)(torch.randn(SHAPE, dtype=torch.float64)).sum().backward()
        hits.append(counters["aot_autograd"]["autograd_cache_hit"])
    assert hits == [0, 1, 0]


def test_inductor_gradients(want):
    model = network()
    assert_same(step(model, torch.compile(model, fullgraph=True)), want)


def test_layouts_that_are_neither_contiguous_nor_channels_last():
    layer = iabn.InPlaceABN(3)
    compiled = torch.compile(layer, fullgraph=True)
    for order in ((0, 1, 3, 2), (1, 0, 2, 3), (0, 2, 3, 1)):
        x, want = (
            torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
        )
        (compiled(x.permute(order) * 2).sin()).sum().backward()
        (layer(want.permute(order) * 2).sin()).sum().backward()
        assert relative_error(x.grad, want.grad) < 1e-5


def test_channels_last_is_not_copied():
    layer = iabn.InPlaceABN(8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last)
    assert compiled(x).is_contiguous(memory_format=torch.channels_last)


def test_export_and_reload(tmp_path):
    model = network(dtype=torch.float32).eval()
    x = torch.randn(SHAPE)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    more = torch.randn(9, *SHAPE[1:])
    assert relative_error(loaded(more), model(more.clone())) < 1e-6
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("iabn" in name for name in names), names


def test_export_for_training_keeps_one_operator(tmp_path):
    model = network(dtype=torch.float32)
    program = torch.export.export(model, (torch.randn(SHAPE),))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("iabn.abn.default") == 1
    x = torch.randn(SHAPE)
    assert relative_error(program.module()(x), copy.deepcopy(model)(x.clone())) < 1e-6


def test_onnx_of_an_evaluated_model_has_standard_operators(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = network(layers=2, dtype=torch.float32)
    for _ in range(3):
        model(torch.randn(SHAPE) * 2 + 1)
    model.eval()
    x = torch.randn(SHAPE)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    operators = {(node.domain, node.op_type) for node in onnx.load(path).graph.node}
    assert all(domain == "" for domain, _ in operators), operators
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert relative_error(torch.from_numpy(y), model(x.clone())) < 1e-5


class TestOperators:
    """torch.library.opcheck on every operator: schema, fakes, autograd registration."""

    def arguments(self):
        x = torch.randn(4, 3, 5)
        weight, bias = torch.rand(3) + 0.5, torch.rand(3)
        mean, var = torch.zeros(3), torch.ones(3)
        z, d_z, sums, count = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.rand(4, 3) + 1, torch.tensor(20.0)
        leaky = (1, 0.1)
        return {
            "abn": (x.clone().requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), 1e-5, *leaky, 0, 1),
            "abn_forward_": (x, weight.detach(), bias.detach(), mean, var, torch.tensor(0), 0.1, 1e-5, *leaky, 0),
            "abn_statistics": (x,),
            "abn_merge": (torch.rand(6, 3) + 1, mean.clone(), var.clone(), torch.tensor(0), 0.1),
            "abn_apply_": (x, mean, var, weight.detach(), bias.detach(), 1e-5, *leaky, 0),
            "abn_backward": (z, d_z, var, weight.detach(), bias.detach(), True, 1e-5, *leaky, 0, True, True),
            "abn_backward_reduce": (z, d_z, bias.detach(), *leaky),
            "abn_backward_apply": (z, d_z, sums, count, var, weight.detach(), bias.detach(), 1e-5, *leaky, 0),
            "abn_backward_parameters": (sums, sums, count, weight.detach(), 1e-5, 0),
        }

    # Those over peer memory need a GPU: test_sync_cuda.py.
    @pytest.mark.parametrize("name", sorted(name for name in iabn._ops._FAKES if "peer" not in name))
    def test_opcheck(self, name):
        operator = getattr(torch.ops.iabn, name).default
        arguments = self.arguments()[name]
        if name == "abn":  # float32 rounding in two orders
            torch.library.opcheck(operator, arguments, atol=1e-4, rtol=1e-4)
        else:
            torch.library.opcheck(operator, arguments)
