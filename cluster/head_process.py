"""The process that a Ray head is: cluster/head.py starts it in the background and ends it.

`ray start --head --block` would do, but has ports of its own choice (a server for Ray Client, 10,000 ports for workers)
that other heads and the dashboard's port run into. A cluster of `ray.init` has what is needed: scheduler, object store,
dashboard, job server.
"""

import argparse
import signal

from cluster.ports import LOOPBACK

READY = "ready at "  # followed by the address, once Ray takes work


def main() -> None:
    """Starts Ray, prints a line, and waits to be ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dashboard-port", type=int, required=True)
    parser.add_argument("--num-cpus", type=int)
    options = parser.parse_args()
    import ray

    context = ray.init(
        address="local",
        num_cpus=options.num_cpus,
        include_dashboard=True,
        dashboard_host=LOOPBACK,
        dashboard_port=options.dashboard_port,
        log_to_driver=False,  # jobs have logs of their own
    )
    print(f"{READY}{context.address_info['gcs_address']}", flush=True)
    signal.pause()  # Ray ends its processes at exit, which its handler of SIGTERM brings about


if __name__ == "__main__":
    main()
