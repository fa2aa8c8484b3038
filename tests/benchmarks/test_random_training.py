"""Benchmarks of steps measure methods as they are shipped."""

import pytest
from monai.bundle import ConfigParser

from benchmarks.label_jobs import config_files
from benchmarks.random_training import DEEP, METHODS, cardiac_plan, make_method
from mcsc_bundle.methods.supervision import has_heads
from preprocessing.paper import paper_plan


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_that_the_configs_supervise_deeply_are_so_here(name):
    shipped = (
        ConfigParser.load_config_files(config_files(name))["method"].get("deep_supervision") == "@deep_supervision"
    )
    assert (name in DEEP) == shipped
    plan = cardiac_plan(size=64, batch=1, pixels=64)
    assert has_heads(make_method(plan, name).state_dict()) == shipped
    assert not has_heads(make_method(plan, name, deep=False).state_dict())


def test_the_papers_plan_has_none():
    plan = paper_plan(cardiac_plan(size=64, batch=1))
    assert not has_heads(make_method(plan, "cross_teaching").state_dict())
