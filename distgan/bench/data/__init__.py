"""How fast images come: distgan beside webdataset and beside files under torch's DataLoader, with as many processes and the same decoder.

All of them read the same images of three kinds, made here: 32x32 PNG, 256x256 JPEG, and 32x32 raw (.npy). They take turns in one run.
"""
