"""Offers `wc -l` under the name "lines", until interrupted."""

import ipcd_client

with ipcd_client.command("lines").serve(["wc", "-l"], most=4) as server:
    print("offering lines; Ctrl-C ends it", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        pass
