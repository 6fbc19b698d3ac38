"""Students of this package as upstreams of s3prl, and so of SUPERB's tasks.

Importing this module makes s3prl know `mtkd_student`:

    import espnet_mtkd.student.s3prl_upstream
    from s3prl.nn import S3PRLUpstream
    upstream = S3PRLUpstream("mtkd_student", path_or_url="exp/mtkd_x").eval()

Run as a command it is s3prl's `run_downstream.py`, with the same flags:

Example:
    python -m espnet_mtkd.student.s3prl_upstream -m train -u mtkd_student \\
        -k exp/mtkd_x -d asr -n mtkd_x
"""

from espnet_mtkd.errors import report_errors
from espnet_mtkd.teachers.hub import import_s3prl_downstream, import_s3prl_hub
from espnet_mtkd.teachers.student import UpstreamExpert

__all__ = ["UpstreamExpert"]  # of s3prl's name, for an expert.py of your own

import_s3prl_hub()


@report_errors
def main():
    """s3prl's `run_downstream.py`."""
    import_s3prl_downstream().main()


if __name__ == "__main__":
    main()
