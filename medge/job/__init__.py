"""A job: what the host sends to a device and what runs there. Light ring: standard library, numpy and Pillow.

`agent.py` is the device's end of a link (sent as source, nothing is installed), `boot.py` the first file of the
archive `job.pyz`, `spec.py` what is asked, `run.py` and `steps.py` what is done.
"""
