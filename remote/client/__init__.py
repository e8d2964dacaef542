"""The user's side of offloading: cuts a graph, sends what is below the cut away, and brings back the latent."""
