"""The control plane of the Envoys: what each is served, and how it comes to them."""
