"""innerpissa: train one reversible adapter in a model's own SVD basis, and measure honestly whether it steers."""
