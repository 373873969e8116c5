"""What pyproject.toml has no words for: the sweep files lie beside the package here, and inside it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["raycl", "raycl.*"]), "raycl.sweeps"],
    package_dir={"raycl.sweeps": "sweeps"},
    package_data={"raycl.sweeps": ["**/*.yaml"], "raycl.results.report": ["*.jinja"]},
)
