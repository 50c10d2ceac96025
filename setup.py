"""What pyproject.toml cannot say: a wheel carries recipes/ inside the package, as tessera/recipes/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """Copies the package as ever, then the recipes into it; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "tessera" / "recipes"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree("recipes", target)


setup(cmdclass={"build_py": WithRecipes})
