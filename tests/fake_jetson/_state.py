"""What the fake Jetson's tools share: its modes, and a state that lasts from one command to the next."""

import json
import os

MODES = {0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}
NEEDS_REBOOT = (3,)
MAX_FREQ = {0: (1510400, 624750000, 2133000000), 1: (1344000, 918000000, 3199000000)}
MAX_FREQ[2] = (1728000, 1020000000, 3199000000)
MIN_FREQ = (729600, 306000000, 204000000)
PATH = os.environ.get("FAKE_JETSON_STATE") or f"/tmp/fake-jetson-{os.getuid()}.json"


def user():
    return os.environ.get("FAKE_JETSON_USER") or "root"


def load():
    try:
        with open(PATH) as stream:
            return json.load(stream)
    except FileNotFoundError:
        return {"mode": 1, "limits": unlocked(1), "log": []}


def save(state):
    with open(PATH + ".new", "w") as stream:
        json.dump(state, stream)
    os.replace(PATH + ".new", PATH)


def unlocked(mode):
    return [[low, MAX_FREQ[mode][k]] for k, low in enumerate(MIN_FREQ)]
