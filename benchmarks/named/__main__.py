import sys

from benchmarks.named.command import main

sys.exit(main())
