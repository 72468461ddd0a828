"""Several processes of one run on one machine: started together, watched, started again."""
