"""Speed of reefd beside its peers, measured in one run on one machine: `make bench`. Compare ratios, not times across machines."""
