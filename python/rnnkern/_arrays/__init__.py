"""Arrays of NumPy, of libraries with DLPack, and of libraries on a GPU: how they are taken and given back."""
