"""`python -m supernet <command>` is `paretolm <command>`: for torchrun, and machines without the console script."""

from supernet.dispatch import main

raise SystemExit(main())
