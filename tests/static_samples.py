"""Small static networks: TSM and TSN on both backbones."""

from samples import RESNET, TINY

_NO_ROUTE = {base["network"]: {key: value for key, value in base.items() if key != "route"} for base in (TINY, RESNET)}
STATIC = {
    f"{name} on {network}": {**table, "static": True, "shift": {"enabled": name == "TSM", "div": 4}}
    for network, table in _NO_ROUTE.items()
    for name in ("TSM", "TSN")
}
