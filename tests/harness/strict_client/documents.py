"""channels.json (§2.1) and index.json (§2.3): what would end an unmodified client, or lead it astray."""

from __future__ import annotations

import re
import time
from typing import Any

from tests.harness.strict_client.refusal import json_object, require

_STAMP = "%a %b %d %H:%M:%S UTC %Y"
_HIGHEST = 65535


def parse_channels(content: bytes) -> dict[str, Any]:
    channels = json_object(content, "channels.json")
    for name, entry in channels.items():
        require(isinstance(entry, dict) and isinstance(entry.get("devices"), dict), f"channel {name} has no devices")
        require(name.split("/")[0] not in {"pool", "gpg"}, f"channel is called {name}")
        require(type(entry.get("hidden", False)) is bool, f"hidden of {name} is a boolean")
        for device, described in entry["devices"].items():
            require(isinstance(described.get("index"), str), f"{name} {device} has an index")
    return channels


def parse_index(content: bytes, name: str) -> dict[str, Any]:
    index = json_object(content, name)
    require(time.strptime(index["global"]["generated_at"], _STAMP), f"generated_at of {name}")
    versions = [image["version"] for image in index["images"]]
    require(versions == sorted(versions), f"newest last in {name}")
    same = [(image["version"], image.get("base", 0)) for image in index["images"]]
    require(len(set(same)) == len(same), f"two images of {name} are the same")
    for image in index["images"]:
        _image(image, f"{name}, version {image['version']}", newest=versions[-1])
    return index


def _image(image: dict[str, Any], name: str, newest: int) -> None:
    require(not {"converters", "descriptions"} & set(image), f"keys of {name}")
    require(image["type"] in {"full", "delta"}, f"type of {name}")
    require(_is_whole(image["version"], _HIGHEST), f"version of {name}")
    require(("base" in image) == (image["type"] == "delta"), f"base of {name}")
    require("base" not in image or (_is_whole(image["base"], _HIGHEST) and image["base"] < image["version"]), name)
    require("minversion" not in image or image["type"] == "full", f"minversion of {name}")
    if "phased-percentage" in image:
        phase = image["phased-percentage"]
        require(_is_whole(phase, 100) and (image["version"] == newest or phase == 0), f"phase of {name}")
    require(image["files"], f"files of {name}")
    names = [file["path"].rpartition("/")[2] for file in image["files"]]
    require(len(set(names)) == len(names), f"unique base names in {name}")
    for file in image["files"]:
        require(_is_whole(file["size"], 1 << 40) and _is_whole(file["order"], 1000), f"numbers of a file of {name}")
        require(re.fullmatch("[0-9a-f]{64}", file["checksum"]), f"checksum of a file of {name}")
        require(isinstance(file["path"], str) and isinstance(file["signature"], str), f"paths of a file of {name}")


def _is_whole(number: Any, highest: int) -> bool:
    return type(number) is int and 0 <= number <= highest
