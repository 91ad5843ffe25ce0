"""Networks: backbones, class-map heads, pooling, weight files, fast inference copies."""
