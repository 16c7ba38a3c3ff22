"""Everything on a network (floor 6): feeds that observe, venues and bridges that act, webhooks that tell."""
