"""A deterministic simulator for protocol cores: virtual time, network, disks, clocks and faults, all from one seed."""
