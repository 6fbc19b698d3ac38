"""Run a command of ESPnet that knows this package's classes.

For `asr.sh --python "python3 -m espnet_mtkd.bin.mtkd_espnet"`. The module
`espnet2.bin.asr_train` becomes this package's task (`--path_targets_dir`,
`--path_kd_conf`, `--transducer_loss`); every other module runs as it is, with the
frontend `mtkd_teacher` known to ESPnet's ASR task.

Example:
    python -m espnet_mtkd.bin.mtkd_espnet -m espnet2.bin.asr_train --help
"""

import runpy
import sys

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import ConfigError, report_errors


@report_errors
def main(cmd=None):
    """Run `-m <module> <arguments>` or `<script> <arguments>`."""
    cmd = list(sys.argv[1:] if cmd is None else cmd)
    if not cmd or cmd[0] in ("-h", "--help"):
        print(__doc__)
        return
    if cmd[0] != "-m":
        sys.argv = cmd
        runpy.run_path(cmd[0], run_name="__main__")
        return
    if len(cmd) < 2:
        raise ConfigError("-m: expected the name of a module behind it")
    _, module, *rest = cmd
    require_espnet()
    if module == "espnet2.bin.asr_train":
        from espnet_mtkd.transducer.task import MTKDASRTask

        MTKDASRTask.main(cmd=rest)
        return
    if module.startswith("espnet2.bin.asr_inference"):
        from espnet_mtkd.transducer.task import register

        register()
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
