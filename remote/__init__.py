"""The user's side of offloading: cuts a graph, sends what is below the cut to an endpoint, and brings back the latent."""
