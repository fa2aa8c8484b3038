"""A small data set and a short training on it, which tests read and leave as they are."""

import pytest

from tests.end_to_end.road import small_dataset, train


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data") / "hearts")


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(dataset, folder)
    return folder
