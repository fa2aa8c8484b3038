"""Whatever a person writes into plan.json, it loads and can be built, or one error names the entry."""

import copy
import json

import pytest

from mcsc_bundle.methods import MultiScaleContrast
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.plan import ChannelNormalization, Plan, PlanError, to_plain
from tests.plans import KINDS, make_plan

CT = ChannelNormalization("CT", "ct", lower=-100.0, upper=200.0, mean=50.0, std=20.0)
VALUES = (None, "x", -1, 0, 1.5, [], {}, True)


def plain(kind):
    return to_plain(make_plan(kind, normalization=(CT,), why={"patch_size": "fits"}))


def places(value, path=()):
    """The path of every entry, lists and mappings included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def edited(content, path, value):
    content = copy.deepcopy(content)
    *parents, last = path
    place = content
    for key in parents:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_any_value_in_any_place_loads_or_is_refused_by_name(kind, value):
    content = plain(kind)
    built = set()
    for path in places(content):
        try:
            plan = Plan.from_dict(edited(content, path, value))
        except PlanError as error:
            assert str(path[0]) in str(error), (path, error)
            continue
        assert json.loads(json.dumps(to_plain(plan))) is not None
        shape = repr((plan.cnn, plan.transformer, plan.contrast, plan.projection_dim))
        if shape not in built:  # what loads can also be built
            built.add(shape)
            MultiScaleContrast(plan, NetworkPair.from_plan(plan))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("transformer", "heads", 0), 0, r"transformer\.heads.*divisor of 8 in stage 0, received 0. Possible: \[1, 2"),
        (("cnn", "strides", 1, 0), 0, r"cnn\.strides.*1 or more"),
        (("cnn", "features", 1), 0, r"cnn\.features.*above 0"),
        (("cnn", "kernel_sizes", 1, 0), 2, r"cnn\.kernel_sizes.*odd"),
        (("patch_size", 0), 8.5, r"patch_size\[0\].*whole number, received 8\.5"),
        (("projection_dim",), 0, "projection_dim.*at least 1"),
        (("orientation",), "XYZ", "orientation.*such as 'RAS'.*received 'XYZ'"),
        (("orientation",), "RLS", "orientation"),
        (("mirror_axes",), [-1], r"mirror_axes.*axes below 3, from 0, received \(-1,\)"),
        (("device",), "tpu", r"device.*one of \('cpu', 'cuda'\), received 'tpu'"),
        (("pach_size",), [8, 16, 16], "unknown 'pach_size'"),
        (("cnn", "feature"), [4], "cnn.*unknown 'feature'"),
        (("labels", "left"), 1.5, r"labels\.left.*whole number"),
        (("normalization", 0, "std"), 0.0, r"normalization\[0\].*std > 0"),
        (("patch_size",), [4, 4, 4], "patch_size.*more than one voxel left at the bottleneck"),
        (("cnn", "preset"), "paper", r"cnn\.preset.*for 'paper' two dimensions, 5 stages"),
        (("spacing_mm", 0), float("inf"), "spacing_mm"),
    ],
)
def test_the_message_says_what_would_be_possible(path, value, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_dict(edited(plain("3d"), path, value))


def test_a_misspelt_entry_gets_the_nearest_name():
    content = plain("3d")
    content["pach_size"] = content.pop("patch_size")
    with pytest.raises(PlanError, match=r"unknown 'pach_size' \(did you mean 'patch_size'\?\), no 'patch_size'"):
        Plan.from_dict(content)


def test_a_whole_number_may_be_written_as_a_fraction():
    content = edited(plain("3d"), ("patch_size", 1), 16.0)
    plan = Plan.from_dict(content)
    assert plan == Plan.from_dict(plain("3d")) and isinstance(plan.patch_size[1], int)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"plan"', "\x00", '{"format": 1e999}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json"):
        Plan.load(tmp_path / "plan.json")
