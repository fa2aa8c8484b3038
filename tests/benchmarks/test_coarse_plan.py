"""The kept plan of the ``acdc_cpu`` protocol is one that the product takes, and its networks fit its patch."""

import json

import torch

from benchmarks.coarse_plan import FACTOR, coarse
from benchmarks.label_efficiency import ROOT
from benchmarks.label_protocols import PROTOCOLS
from mcsc_bundle.networks.pair import pair_or_exit
from mcsc_bundle.plan import Plan

KEPT = ROOT / PROTOCOLS["acdc_cpu"].overrides["plan_from"]


def test_networks_of_the_kept_plan_fit_its_patch():
    plan = Plan.load(KEPT)
    networks = pair_or_exit(plan).eval()
    image = torch.zeros(1, 1, *plan.patch_size)
    with torch.no_grad():
        for network in (networks.cnn, networks.transformer):
            assert network(image).shape == (1, 4, *plan.patch_size)


def test_millimetres_of_the_patch_stay():
    before = json.loads(KEPT.read_text())
    after = coarse(before)
    assert after["spacing_mm"] == [FACTOR * before["spacing_mm"][0], FACTOR * before["spacing_mm"][1], None]
    assert after["patch_size"] == [56, 64] and after["median_shape"][2] == before["median_shape"][2]
    assert len(after["cnn"]["features"]) == len(after["cnn"]["strides"]) == len(before["cnn"]["features"]) - 1
    assert after["why"]["spacing_mm"].startswith("Edited by")


def test_maps_of_the_kept_plan_are_cut_as_the_planner_cuts_maps_of_their_size():
    """112 x 128 in about 12 x 12 blocks, 14 x 16 in 2 x 2: a scale of a single block would shuffle nothing."""
    assert [scale.block for scale in Plan.load(KEPT).contrast] == [(9, 11), (7, 8)]
    before = json.loads(KEPT.read_text()) | {"patch_size": [224, 256]}
    assert [scale["block"] for scale in coarse(before)["contrast"]] == [[9, 11], [7, 8]]
