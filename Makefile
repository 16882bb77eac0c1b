# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs and says what it does.
SHELL := /bin/bash
