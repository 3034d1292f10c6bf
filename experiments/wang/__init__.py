"""The experiments of Wang et al. 2016 and 2018, one file each."""
