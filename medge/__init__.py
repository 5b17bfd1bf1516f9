"""medge: a folder of medical images becomes a small, fast engine that has proved it is not worse than its model.

Research use; not a medical device.
"""

import os

__version__ = "0.1.0"

# ONNX Runtime from 1.29 on notes its sessions in the user's home folder and sends that to its maker, unless this is set
# before it is imported. Here, so that it is in every process of medge, on devices too, and in those that they start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
