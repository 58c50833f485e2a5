"""What `accelerate launch -m hfadapt.run RECIPE [key=value …]` starts: one of the processes of a run."""

import sys

from hfadapt.cli import main

if __name__ == "__main__":
    main(["run", "--here", *sys.argv[1:]])
