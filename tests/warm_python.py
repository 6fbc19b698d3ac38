"""A Python whose imports are done before: a recipe of many short processes is quick.

A server imports ESPnet, s3prl and this package once. The client takes the place of the
interpreter (`python -m module ...`, `python script.py ...`, a program on standard
input): it hands its arguments, environment, directory and streams to the server, which
forks a process that runs what was asked. So a recipe runs its real commands, each in a
process of its own, without the 20 seconds of imports before each.

    python warm_python.py serve <socket>
    python warm_python.py run <socket> -m espnet2.bin.asr_train --help
"""

import json
import os
import socket
import sys

MODULES = """
    espnet2.bin.asr_inference espnet2.bin.asr_train espnet2.bin.launch
    espnet2.bin.tokenize_text espnet_mtkd.pretraining.task espnet_mtkd.transducer.task
    espnet_mtkd.streaming espnet_mtkd.report.page espnet_mtkd.results.page
    espnet_mtkd.targets.extract espnet_mtkd.teachers.s3prl faiss librosa.core
    librosa.filters matplotlib.pyplot s3prl.nn scipy.stats torch.utils.tensorboard
    tensorboard.backend.event_processing.event_accumulator
""".split()
STREAMS = (0, 1, 2)


def client(path: str, argv: list[str]) -> int:
    """Have the server run `argv`; returns the exit code."""
    request = dict(argv=argv, env=dict(os.environ), cwd=os.getcwd())
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        header = len(data).to_bytes(8, "big")
        socket.send_fds(connection, [header], STREAMS)
        connection.sendall(data)
        answer = connection.recv(1)
    return answer[0] if answer else 1


def receive(connection) -> tuple[dict, list[int]]:
    """What the client sent: its request, and its streams."""
    header, streams, _, _ = socket.recv_fds(connection, 8, len(STREAMS))
    left = int.from_bytes(header, "big")
    parts = []
    while left:
        parts.append(connection.recv(min(left, 1 << 16)))
        left -= len(parts[-1])
    return json.loads(b"".join(parts)), streams


def run(argv: list[str]) -> int:
    """What `python <argv>` does, as its exit code."""
    import runpy
    import traceback

    try:
        if not argv or argv[0] == "-":
            sys.argv = argv or [""]
            exec(sys.stdin.read(), {"__name__": "__main__"})
        elif argv[0] == "-m":
            sys.argv = argv[1:]
            sys.modules.pop(argv[1], None)
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(argv[1], {"__name__": "__main__"})
        else:
            sys.argv = argv
            sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
            return 1
        return int(e.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve(path: str) -> None:
    """Import everything, then fork a process for each connection, for ever."""
    import gc
    import importlib
    import signal

    from espnet_mtkd.teachers.hub import import_s3prl_hub

    # (ESPnet's types are made to be checked here, not at a function's first call as in
    # this package's commands: each fork would do it again, for seconds.)
    import_s3prl_hub()
    for name in MODULES:
        importlib.import_module(name)
    # Without this every collection in a fork goes through, and so copies, all of it.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                break
            connection.close()
        server.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams = receive(connection)
    for source, target in zip(streams, STREAMS, strict=True):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    code = run(request["argv"])
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code & 255]))
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(client(sys.argv[2], sys.argv[3:]))
