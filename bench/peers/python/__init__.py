"""What runs inside the producing and consuming processes of the peers that Python drives."""
