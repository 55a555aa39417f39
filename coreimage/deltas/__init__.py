"""Algorithms of delta updates. They know trees and bytes, but no channel and no store."""
