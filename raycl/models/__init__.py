"""Networks: backbones, a head that grows, and the networks that generate or mask other networks' weights."""
