"""The GPU kernels without a GPU: interpreted for their values, compiled for what they need, left out where they fail."""

import json
import logging
import os
import re
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


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels run on the CPU, program after program, in numpy."""
    if torch.cuda.is_available():
        pytest.skip("kernels are interpreted only where there is no GPU to run them")
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
    fused.works.cache_clear()
    assert fused.works("cpu", None)
    yield
    fused.works.cache_clear()
    torch.compiler.reset()  # what was compiled with kernels


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were launched."""
    names, plain = [], fused._launch
    monkeypatch.setattr(fused, "_launch", lambda name, *rest: (names.append(name), plain(name, *rest))[1])
    return names


class TestInterpreted:
    @pytest.mark.parametrize(("size", "width", "classes"), [(1, 1, 2), (23, 5, 1), (64, 16, 2), (70, 33, 8)])
    def test_value_and_gradient_are_those_of_the_formula(self, interpreted, launched, size, width, classes):
        features, labels = draw(groups=2, size=size, width=width, classes=classes, ignored=0.2)
        options = {"skip_background_groups": classes > 1}
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, classes, **options)
        assert_close(ours, value_and_gradient(reference.contrastive_loss, features.double(), labels, **options))
        assert launched[-2:] == ["class_sums", "slope"]

    @pytest.mark.parametrize("balance_anchors", [False, True])
    def test_groups_of_many_tiles_some_without_weight(self, interpreted, balance_anchors):
        features, labels = draw(groups=3, size=150, width=50, classes=4, ignored=0.1)
        labels[1] = 0
        options = {"balance_anchors": balance_anchors}
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, 4, **options)
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 4, **options)
        assert_close(ours, judge, 1e-6)
        assert not ours[1][1].any()

    @pytest.mark.parametrize("temperature", [0.02, 0.7])
    def test_temperatures(self, interpreted, temperature):
        features, labels = draw(size=70, width=16)
        ours = value_and_gradient(balanced_contrastive_loss, features, labels, 3, temperature)
        assert_close(
            ours, value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3, temperature), 2e-6
        )

    def test_near_the_optimum_attraction_and_repulsion_cancel_without_loss(self, interpreted):
        features, labels = draw(groups=1, size=200, width=64)
        features = torch.eye(3, 64)[labels] + 0.01 * features
        judge = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3)
        value, gradient = value_and_gradient(balanced_contrastive_loss, features, labels, 3)
        assert abs(value - judge[0]) < 3e-6
        assert (gradient - judge[1]).norm() < 1e-3 * judge[1].norm()

    def test_features_may_lie_in_any_order_in_memory(self, interpreted):
        features, labels = draw(size=40, width=8)
        other = features.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        assert not other.is_contiguous()
        ours = value_and_gradient(balanced_contrastive_loss, other, labels, 3)
        assert_close(ours, value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3), 1e-6)

    def test_it_compiles_as_one_graph(self, interpreted, launched):
        features, labels = draw(ignored=0.2)
        torch.compiler.reset()  # what was compiled before holds that there are no kernels
        compiled = torch.compile(balanced_contrastive_loss, backend="aot_eager", fullgraph=True)
        ours = value_and_gradient(compiled, features, labels, 3)
        assert_close(ours, value_and_gradient(balanced_contrastive_loss, features.double(), labels, 3))
        assert launched[-2:] == ["class_sums", "slope"]

    def test_what_they_do_not_take_goes_through_tiles(self, interpreted, launched):
        wide, labels = draw(width=fused.MOST_WIDTH + 1)
        for features, classes in ((wide, 3), (wide[..., :5].double(), 3), (wide[..., :5], fused.MOST_CLASSES + 1)):
            value_and_gradient(balanced_contrastive_loss, features, labels, classes)
        assert not launched

    def test_no_vectors_no_launch(self, interpreted):
        value, gradient = value_and_gradient(
            balanced_contrastive_loss, torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long), 3
        )
        assert value == 0 and gradient.shape == (2, 0, 3)


class TestTrial:
    @pytest.fixture
    def tried(self, monkeypatch):
        monkeypatch.setattr(fused, "DEVICES", ("cuda", "cpu"))
        fused.works.cache_clear()
        yield
        fused.works.cache_clear()

    def test_kernels_that_fail_are_left_out_and_the_log_says_so_once(self, tried, monkeypatch, caplog):
        def fail(*_):
            raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr(fused, "_launch", fail)
        features, labels = draw()
        with caplog.at_level(logging.WARNING):
            ours = [value_and_gradient(balanced_contrastive_loss, features, labels, 3) for _ in range(2)]
        assert_close(ours[1], value_and_gradient(reference.contrastive_loss, features.double(), labels))
        assert [record.getMessage() for record in caplog.records] == [
            "The contrast's GPU kernels do not run here (Failed to find C compiler); it takes plain PyTorch, which is slower."
        ]

    def test_kernels_that_are_wrong_are_left_out(self, tried, monkeypatch, caplog):
        monkeypatch.setattr(fused, "_launch", lambda *_: None)
        with caplog.at_level(logging.WARNING):
            assert not fused.usable(torch.device("cpu"), torch.float32, 8, 3)
        assert "are off by 1.0e+00 here" in caplog.text

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
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
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
@pytest.mark.parametrize("balance_anchors", [False, True])
def test_on_a_gpu_they_agree_with_the_tiles(balance_anchors):
    assert fused.works("cuda", torch.cuda.current_device())
    features, labels = (tensor.cuda() for tensor in draw(groups=5, size=2888, width=128, classes=4, ignored=0.05))
    options = {"balance_anchors": balance_anchors}
    ours = value_and_gradient(balanced_contrastive_loss, features, labels, 4, **options)
    tiles = value_and_gradient(balanced_contrastive_loss, features.double(), labels, 4, **options)
    assert_close(ours, tiles)


def test_the_tiles_are_what_a_chunk_size_asks_for(monkeypatch):
    monkeypatch.setattr(contrastive, "usable", lambda *_: pytest.fail("asked"))
    balanced_contrastive_loss(*draw(), 3, chunk_size=8)
