"""Conversations in SQL databases, one file a noun. Every statement names tenant and principal, save background work.

A statement that changes a row decides by itself whether it may (its WHERE clause holds the condition), so that no
reader of an older state overwrites a newer one.
"""
