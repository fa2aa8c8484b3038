"""The GPU kernels, interpreted where there is no GPU; compiled for what they need of a card; left out where they fail."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mcsc_bundle.losses import contrastive, fused
from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from tests.mcsc_bundle.losses import reference
from tests.mcsc_bundle.losses.test_contrastive import assert_close, draw, value_and_gradient

ON_CHIP_KIB = 99  # that a program may use on the smallest cards (8.6, 8.9, 12.0)
SPILLED_BYTES = 256  # of a thread's numbers that may find no register
INDUCTOR = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.fixture
def device(monkeypatch):
    """A GPU that takes the kernels; without one a CPU that interprets them in numpy, program after program."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        triton = pytest.importorskip("triton", minversion="3.7")  # those before cannot be interpreted with numpy 2.4
        interpreter, tl = pytest.importorskip("triton.runtime.interpreter"), triton.language

        def number(handle):
            """bf16 as the number it is: the interpreter keeps its bits in an integer, and would multiply that."""
            if handle.dtype.scalar != tl.bfloat16:
                return handle
            return interpreter.TensorHandle((handle.data.astype("uint32") << 16).view("float32"), tl.float32)

        builder, plain = interpreter.InterpreterBuilder, interpreter.InterpreterBuilder.create_dot
        monkeypatch.setattr(builder, "create_dot", lambda self, a, b, *rest: plain(self, number(a), number(b), *rest))
        monkeypatch.setattr(fused, "DEVICES", ("cuda", "cpu"))
    device = torch.empty(0, device=kind).device
    forget()
    assert fused.works(device.type, device.index, False)
    yield device
    forget()


def forget():
    fused._tried.cache_clear()
    torch.compiler.reset()  # what was compiled holds whether there are kernels


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were launched, and the largest absolute value of what each was given second."""
    launches, plain = [], fused._launch

    def launch(name, tensors, *rest):
        launches.append((name, float(tensors[1].abs().max()) if tensors[1].numel() else 0.0))
        plain(name, tensors, *rest)

    monkeypatch.setattr(fused, "_launch", launch)
    return launches


def on(device, *arguments, **options):
    """Value and gradient there, brought back."""
    arguments = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
    return [result.cpu() for result in value_and_gradient(balanced_contrastive_loss, *arguments, **options)]


class TestValues:
    @pytest.mark.parametrize(("size", "width", "classes"), [(1, 1, 2), (23, 5, 1), (64, 16, 2), (70, 33, 8)])
    def test_they_are_those_of_the_formula(self, device, launched, size, width, classes):
        features, labels = draw(groups=2, size=size, width=width, classes=classes, ignored=0.2)
        options = {"skip_background_groups": classes > 1}
        ours = on(device, features, labels, classes, **options)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, features.double(), labels, **options))
        assert [name for name, _ in launched] == ["class_sums", "slope"]

    @pytest.mark.parametrize("balance_anchors", [False, True])
    def test_groups_of_many_tiles_some_without_weight(self, device, balance_anchors):
        features, labels = draw(groups=3, size=150, width=50, classes=4, ignored=0.1)
        labels[1] = 0
        options = {"balance_anchors": balance_anchors}
        ours = on(device, features, labels, 4, **options)
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 4, **options)
        assert_close(ours, judge, 2e-6)
        assert not ours[1][1].any()

    @pytest.mark.parametrize("temperature", [0.02, 0.7])
    def test_temperatures(self, device, temperature):
        features, labels = draw(size=70, width=16)
        ours = on(device, features, labels, 3, temperature)
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3, temperature)
        assert_close(ours, judge, 4e-6)

    def test_as_many_classes_and_features_as_they_take(self, device, launched):
        features, labels = draw(size=96, width=fused.MOST_WIDTH, classes=fused.MOST_CLASSES)
        ours = on(device, features, labels, fused.MOST_CLASSES)
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, fused.MOST_CLASSES)
        assert_close(ours, judge, 2e-6)
        assert launched[-1][0] == "slope"

    def test_near_the_optimum_attraction_and_repulsion_cancel_without_loss(self, device):
        features, labels = draw(groups=1, size=200, width=64)
        features = torch.eye(3, 64)[labels] + 0.01 * features
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3)
        value, gradient = on(device, features, labels, 3)
        assert abs(value - judge[0]) < 3e-6
        assert (gradient - judge[1]).norm() < 1e-3 * judge[1].norm()

    def test_features_and_labels_may_lie_in_any_order_in_memory(self, device):
        features, labels = draw(size=40, width=8)
        other, theirs = features.permute(2, 0, 1).contiguous().permute(1, 2, 0), labels.T.contiguous().T
        assert not other.is_contiguous() and not theirs.is_contiguous()
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3)
        assert_close(on(device, other, theirs, 3), judge, 2e-6)

    def test_no_vectors_are_no_programs(self, device, monkeypatch):
        from mcsc_bundle.losses import kernels

        monkeypatch.setattr(kernels, "class_sums", None)
        value, gradient = on(device, torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long), 3)
        assert value == 0 and gradient.shape == (2, 0, 3)

    def test_what_they_do_not_take_goes_through_tiles(self, device, launched):
        wide, labels = draw(width=fused.MOST_WIDTH + 1)
        for features, classes in ((wide, 3), (wide[..., :5].double(), 3), (wide[..., :5], fused.MOST_CLASSES + 1)):
            on(device, features, labels, classes)
        assert not launched


class TestCompiled:
    @pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=INDUCTOR)])
    def test_as_one_graph_in_which_both_halves_remain(self, device, launched, backend):
        features, labels = draw(ignored=0.2)
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3)
        compiled = torch.compile(balanced_contrastive_loss, backend=backend, fullgraph=True)
        ours = value_and_gradient(compiled, features.to(device), labels.to(device), 3)
        assert_close([result.cpu() for result in ours], judge)
        assert [name for name, _ in launched] == ["class_sums", "slope"]
        assert all(1e-5 < low < 1e-2 for _, low in launched)

    def test_the_trial_may_be_made_while_code_is_traced(self, device, launched):
        forget()
        compiled = torch.compile(balanced_contrastive_loss, backend="aot_eager", fullgraph=True)
        features, labels = (tensor.to(device) for tensor in draw())
        for width, classes in ((5, 3), (4, 3), (4, 2)):  # others become symbols, which decide all the same
            value_and_gradient(compiled, features[..., :width].contiguous(), labels % classes, classes)
        assert launched[-1][0] == "slope"


class TestTrial:
    @pytest.fixture
    def tried(self, monkeypatch):
        monkeypatch.setattr(fused, "DEVICES", ("cuda", "cpu"))
        forget()
        yield
        forget()

    def test_kernels_that_fail_are_left_out_and_the_log_says_so_once(self, tried, monkeypatch, caplog):
        def fail(*_):
            raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr(fused, "_launch", fail)
        features, labels = draw()
        with caplog.at_level(logging.WARNING):
            ours = [value_and_gradient(balanced_contrastive_loss, features, labels, 3) for _ in range(2)]
        assert_close(ours[1], value_and_gradient(reference.contrastive_loss, features.double(), labels))
        assert [record.getMessage() for record in caplog.records] == [
            "The contrast's GPU kernels do not run here (Failed to find C compiler); it takes plain PyTorch."
        ]

    @pytest.mark.parametrize(
        "wrong", [lambda name, tensors, *_: None, lambda name, tensors, *_: tensors[-1].fill_(torch.nan)]
    )
    def test_kernels_that_are_wrong_are_left_out(self, tried, monkeypatch, caplog, wrong):
        monkeypatch.setattr(fused, "_launch", wrong)
        with caplog.at_level(logging.WARNING):
            assert not fused.usable(torch.device("cpu"), torch.float32, 8, 3)
        assert "are off by" in caplog.text

    def test_no_verdict_is_kept_where_nothing_can_be_tried(self, tried, monkeypatch):
        def full(*_):
            raise torch.OutOfMemoryError

        tensors = torch._subclasses.FakeTensorMode()
        with monkeypatch.context() as patched:
            patched.setattr(fused, "_launch", full)
            assert not fused.works("cpu", None, False)
        monkeypatch.setattr(fused, "_errors_of_a_trial", lambda *_: [0.0])
        with tensors:
            assert not fused.works("cpu", None, False)
        assert fused.works("cpu", None, False)

    def test_a_cpu_is_not_tried(self, monkeypatch):
        monkeypatch.setattr(fused, "works", lambda *_: pytest.fail("tried"))
        assert not fused.usable(torch.device("cpu"), torch.float32, 8, 3)


COMPILE = """
import json, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mcsc_bundle.losses import fused, kernels
needs = []
for card, classes in (80, 1), (86, fused.MOST_CLASSES), (90, fused.MOST_CLASSES):
    for name, columns in ("class_sums", classes), ("slope", 2 * classes):
        constants = dict(D=fused.MOST_WIDTH, C=fused._padded(columns), ROWS=fused.ROWS, COLUMNS=fused.COLUMNS)
        constants |= {"classes": 1} if classes == 1 else {}  # as a launch does with an argument of 1
        kernel = getattr(kernels, name)
        types = {"high": "*fp16", "low": "*fp16", "size": "i32", "width": "i32", "classes": "i32"}
        signature = {n: "constexpr" if n in constants else types.get(n, "*fp32") for n in kernel.arg_names}
        # as a launch marks what 16 divides: where a tensor begins, and sizes of most plans
        aligned = [n for n in kernel.arg_names if n not in constants and not (n == "classes" and classes % 16)]
        attributes = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
        options = dict(num_warps=fused.WARPS, num_stages=fused.STAGES)
        made = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
        file = f"{sys.argv[1]}/{card}_{name}.cubin"
        open(file, "wb").write(made.asm["cubin"])
        needs.append((file, made.metadata.shared))
print(json.dumps(needs))
"""


def test_compiled_for_cards_from_2020_on_they_need_no_more_than_there_is(tmp_path):
    triton = pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    needs = json.loads(done.stdout)
    assert len(needs) == 6
    for file, on_chip in needs:
        assert on_chip <= ON_CHIP_KIB * 2**10, file
        usage = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        assert registers <= 255 and stack <= SPILLED_BYTES, file


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [2888, 2880])
@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_at_the_papers_size_they_agree_with_the_formula(device, size, spread):
    features, labels = draw(groups=5, size=size, width=128, classes=4, ignored=0.05)
    features = torch.eye(4, 128)[labels.clamp(min=0)] + spread * features
    value, gradient = on(device, features, labels, 4)
    judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 4)
    assert abs(value - judge[0]) < 1e-5
    assert (gradient - judge[1]).norm() < (1e-5 if spread == 1 else 1e-3) * judge[1].norm()


def test_the_tiles_are_what_a_chunk_size_asks_for(monkeypatch):
    monkeypatch.setattr(contrastive, "usable", lambda *_: pytest.fail("asked"))
    balanced_contrastive_loss(*draw(), 3, chunk_size=8)
