"""milvus.yaml of an instance, made from the template that the Milvus package ships."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from . import cache, ports

# Roles whose gRPC servers a standalone Milvus starts, each on a port of its own.
ROLES = ["rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode"]


def template() -> dict[str, Any]:
    text = (cache.milvus_data() / "config.yaml.template").read_text()
    # `{{ name: default }}` and `{{ name }}` are the package's placeholders.
    return yaml.safe_load(re.sub(r"\{\{[^:}]*:?\s*([^}]*?)\s*\}\}", r"\1", text))


def base(home: Path) -> dict[str, Any]:
    """The template on free ports, with every path below `home`."""
    config = template()
    for role in ROLES:
        config[role]["ip"] = "127.0.0.1"
        config[role]["port"] = ports.take()
    config["proxy"]["internalPort"] = ports.take()
    config["log"]["file"]["rootPath"] = str(home / "logs")
    return config


def write(config: dict[str, Any], home: Path) -> Path:
    configs = home / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    path = configs / "milvus.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copy(cache.milvus_data() / "glog.conf", configs / "glog.conf")
    return path
