from pathlib import Path

import pytest
from going import go
from tiny_run import written

from tessera.train.trainer import Text


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    """Three invented languages of different size, with a tokenizer and both stores."""
    return written(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, text: Text) -> Path:
    """The first phase, trained without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    go(folder, text)
    return folder
